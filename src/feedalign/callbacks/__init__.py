"""Callbacks for other people's trainers: a module for each framework, which is imported by that module alone."""
