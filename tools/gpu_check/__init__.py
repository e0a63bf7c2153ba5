"""What `tools/gpu_check.sh` does on a machine with a GPU."""
