"""Orders of tokens: coordinates on a grid, and permutations in which neighbours are near."""
