"""How a CPU kernel is written: vector instructions, register tiles, lanes."""
