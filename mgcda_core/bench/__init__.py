"""What `mgcda bench` measures."""
