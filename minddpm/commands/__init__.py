"""The commands of `minddpm`, each a file with a main(), and what they share.

Shared by the commands, those in examples/ included: flags, errors, training runs, figures.
"""
