"""A smaller vocabulary: which tokens must stay, what a tokenizer without the others makes of texts, and what that does."""

from compress_explain.vocabulary.lexicon import Lexicon, Rehearsal
from compress_explain.vocabulary.pieces import Pieces, read_pieces
from compress_explain.vocabulary.reading import Reread, read_by, reread
from compress_explain.vocabulary.usage import Choice, Usage, choose

__all__ = ["Choice", "Lexicon", "Pieces", "Rehearsal", "Reread", "Usage", "choose", "read_by", "read_pieces", "reread"]
