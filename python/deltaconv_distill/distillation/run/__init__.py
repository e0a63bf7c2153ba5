"""What a run leaves on the disk and takes up again: checkpoints, records, sample grids, the card."""
