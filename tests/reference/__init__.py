"""The equations by hand: float64, plain tensor arithmetic, no autograd, no import of the library.

Notation of the papers: N samples, H_l activations, A_l pre-activations, Delta_l = S_l * f'(A_l), E = dL/dA_L with the
loss's own scale in it, so that a gradient is Delta_l^T H_{l-1} without a further division by N.

Each rule has a file of its name with a function `signals(case)`: the teaching signals S_1 ... S_{L-1}; or, where these
are not all, `gradients(case)`: of every parameter. `learned(case)` has the gradients of what the rule adds to the
network, by the name of the layer's non-linearity: `act1` a matrix or head, `act1_bias` the bias of a head.
"""
