"""What a cell, an array and a chip do and cost."""
