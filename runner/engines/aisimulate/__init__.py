"""The engine `aisimulate`: NVIDIA's AISimulate, called as a program of another environment."""
