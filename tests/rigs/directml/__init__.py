"""The real torch_directml on a simulated Direct3D 12: see README.md beside this file."""
