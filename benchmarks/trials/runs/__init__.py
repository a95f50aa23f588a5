"""What a whole run is held to: nothing lost, nothing late, in every setting."""
