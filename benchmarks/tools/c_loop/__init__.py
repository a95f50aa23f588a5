"""The floor of every client that reads each token: a C program that reads, takes stamps, and does nothing else."""
