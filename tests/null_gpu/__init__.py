"""A GPU that computes nothing, for machines without one.

A library that is loaded before all others (LD_PRELOAD) answers the calls of the CUDA runtime, cuBLAS, cuFFT and NCCL:
they succeed and are counted, copies are real, kernels do nothing. Above it torch's own CUDA code runs: dispatch,
allocator, autograd threads, ProcessGroupNCCL, DDP, DeepSpeed. So it shows what a step asks of the host: launches,
synchronisations and the lines that cause them, copies, collectives. It shows no numbers and no times, and what branches
on values goes its way by chance.

    python -m tests.null_gpu.build FOLDER                                # compiles it (g++, seconds)
    python -m tests.null_gpu.count_steps FOLDER --world 8 train.precision=bf16     # a table of both kinds of steps

The process is one rank of as many as asked for: the others are thought to send what it sends.
"""
