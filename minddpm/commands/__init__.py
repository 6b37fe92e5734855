"""What the commands of examples/ share: flags, errors, runs, figures."""
