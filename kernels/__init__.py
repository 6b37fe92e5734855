"""The hot operations, once per kernel set, under the same names and signatures in each.

reference.py is the executable specification: plain array code for NumPy and for CuPy.
"""
