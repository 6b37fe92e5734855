"""Code that the commands in examples/ share: flags, errors, training runs, figures."""
