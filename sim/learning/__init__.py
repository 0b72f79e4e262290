"""Training real models in the simulator: the one room of `sim` that knows torch; `sim.TorchWorkload` is its door.

versions    parameters that never change, and how they came about
arena       where the numbers of computed versions lie
layout      which parameter, buffer and optimizer state lies where in a row
pending     what is to be computed, and when it is computed together
batched     many peers' steps at once; loop: one peer after the other, the reference
choosing    which of the two a model can take, and which is better for it
"""
