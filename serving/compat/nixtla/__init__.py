"""What the Nixtla client speaks, below /compat/nixtla."""
