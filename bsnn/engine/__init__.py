"""The engine: K networks of one shape trained as one stack of batched products, without autograd.

`bsnn.network` is the definition; the engine computes the same numbers faster, and tests hold the two together.

    functions   activation functions as rows of numbers that compiled kernels read
    sizes       how many networks a stack takes
    stack       K networks, a step of SGD for all of them, evaluation
    passes      what happens between the matrix products, in plain torch: the definition of the kernels
    cpu         the same passes compiled from kernels.cpp
    interval    many steps on mini-batches of real data
    products    products of the bottom and the top, the same whatever the size of a stack

and for a GPU

    triton_passes, triton_kernels   the passes, fused with the products
    graphs      many steps as replays of a CUDA graph
    gpu         which way a stack takes there: the best of those that work and are right
    selfcheck   are they right? some steps beside float64
    machine_code, tensor_cores      what is known without a GPU: compiled kernels, and their rounding
"""
