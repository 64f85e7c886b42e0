"""What every attack and generator stands on: checks, losses, compiling once."""
