"""Signal retention: does what the original knew survive in the compressed model, layer by layer?"""
