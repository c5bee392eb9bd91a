"""One statistic a file: formula, paper, and nothing else."""
