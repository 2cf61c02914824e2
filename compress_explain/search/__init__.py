"""Choosing strategies, their order and their budgets: successive halving over pipelines that are priced before they are tried."""

from compress_explain.search.flow import search
from compress_explain.search.found import Found
from compress_explain.search.options import Search

__all__ = ["Found", "Search", "search"]
