"""Choosing strategies, their order and their budgets: successive halving over pipelines that are priced before they are tried."""

from compress_explain.search.found import Found
from compress_explain.search.options import Search
from compress_explain.search.search import seek

__all__ = ["Found", "Search", "seek"]
