"""Step time and memory of the rules against backprop, a by-hand DFA and the bound that the FLOPs set."""
