"""What degradations are made of: the operator, random fields, compiled kernels, composition, the slow reference."""
