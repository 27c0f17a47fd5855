"""How good SAME and OAAR are: numbers, pictures, and a report that holds both. No Ray."""
