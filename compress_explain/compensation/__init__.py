"""Compensation: after components are gone, what consumes the rest is refitted to make up for them."""

from compress_explain.compensation.refit import Compensation, Compensator, Repair, summed_up

__all__ = ["Compensation", "Compensator", "Repair", "summed_up"]
