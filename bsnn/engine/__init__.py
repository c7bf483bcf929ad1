"""The engine: K networks of one shape trained as one stack of batched products, without autograd.

`bsnn.network` is the definition. The engine computes the same numbers faster, and tests compare the two.

    functions   activation functions as rows of numbers that compiled kernels read
    sizes       the number of networks in a stack
    stack       K networks, a step of SGD for all of them, evaluation
    passes      the operations between the matrix products, in plain torch: the definition of the kernels
    cpu         the same passes compiled from kernels.cpp
    interval    many steps on mini-batches of real data
    products    products of the bottom and the top, the same whatever the size of a stack

and for a GPU

    triton_passes, triton_kernels   the passes, fused with the products
    graphs      many steps as replays of a CUDA graph
    gpu         the way a stack takes there: the best of those that work and are right
    selfcheck   a comparison of some steps with float64
    machine_code, tensor_cores      facts known without a GPU: compiled kernels, and their rounding
"""
