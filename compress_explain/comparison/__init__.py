"""Two models compared on the same rows: predictions in pairs, figures of them, and the gates that judge those."""
