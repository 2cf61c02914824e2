"""How long calls take, with no more than numpy: what runs on machines that have nothing else of this package's needs."""
