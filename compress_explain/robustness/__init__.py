"""Inputs disturbed so that their label stays, and attacked along the gradient: what becomes of both models' answers?"""
