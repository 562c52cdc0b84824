"""Everything that a real GPU is needed for, in one command that never takes longer than it was given.

    python -m benchmarks.gpu --minutes 8 --out gpu-results
    python -m benchmarks.gpu --minutes 8 --out gpu-results --parts numbers,steps   # some parts only
    python -m benchmarks.gpu --minutes 4 --out gpu-results --device cpu --small    # a smoke test of itself

It runs from a plain checkout, installs nothing and needs torch, torchvision and NumPy. Parts that need more are left
out where it is missing, and the report says so. Every part is a process of its own with a time of its own: one that
hangs or crashes costs what it had not measured yet and nothing else. The most important parts come first, and
DIR/report.txt, DIR/report.json and DIR/log.txt are written again after each.

Figures of one run were taken on one machine, one after the other, and may be compared with each other.
"""
