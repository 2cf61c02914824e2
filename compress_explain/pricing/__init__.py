"""What edits are expected to do before they are made, and how good that expectation is."""

from compress_explain.pricing.audit import Audit, AuditPlan, Sample, audit, tried
from compress_explain.pricing.engine import Engine, Local, RayWorkers
from compress_explain.pricing.joint import Joint, expected_joint, observed_joint, share_of, together
from compress_explain.pricing.menu import Candidate, Menu, read_menu
from compress_explain.pricing.price import MOVES, price
from compress_explain.pricing.prices import Prices
from compress_explain.pricing.refine import Refinement

__all__ = [
    "MOVES",
    "Audit",
    "AuditPlan",
    "Candidate",
    "Engine",
    "Joint",
    "Local",
    "Menu",
    "Prices",
    "RayWorkers",
    "Refinement",
    "Sample",
    "audit",
    "expected_joint",
    "observed_joint",
    "price",
    "read_menu",
    "share_of",
    "together",
    "tried",
]
