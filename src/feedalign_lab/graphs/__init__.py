"""Graphs: classes of their nodes, and their missing edges, under any rule."""
