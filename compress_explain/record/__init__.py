"""What a run leaves behind: its folder, the ledger, the manifest, checkpoints, and the way back from them."""
