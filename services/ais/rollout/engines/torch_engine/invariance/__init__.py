"""The same numbers for a sequence, whatever else is in the batch: `rollout.batch_invariant`, on a CPU.

A matrix product may add in another order where it has another number of rows, and a sum over positions where it has
another length. So rows and positions come in whole blocks here, and prefixes are computed one by one. Then a product's
kernel is the same for every block, and what fills the blocks up are zeros behind a mask. Whether that is enough is the
linear algebra library's affair, so it is tried at the start.
"""
