"""The MLflow registry: one parent run a compression, one child a step, the model beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compress_explain.evaluating import Evaluated
from compress_explain.record.outcome import Run
from compress_explain.search import Found

from .addresses import resolve_tracking_uri
from .reach import check_reachable, explained, quiet


@dataclass(frozen=True, kw_only=True)
class MlflowRegistry:
    """Mirrors finished runs to an MLflow tracking store.

    ``tracking_uri`` defaults to ``MLFLOW_TRACKING_URI``, else to ``mlflow.db`` in the working
    folder; ``experiment`` to the last part of the model's name. A run that passed its gates becomes
    a version of the registered model ``register_as``, under the alias ``candidate``.
    """

    tracking_uri: str | None = None
    experiment: str | None = None
    register_as: str | None = None

    def check(self) -> None:
        """See within seconds whether the store answers.

        Raises:
            InputError: it does not.
        """
        check_reachable(resolve_tracking_uri(self.tracking_uri))

    def publish(self, folder: Path) -> str:
        """Mirror the run in ``folder``, completing what an earlier attempt left out, and return its address.

        Raises:
            InputError: there is no finished run in the folder, the store fails, or the model that it
                gives back is not the one that was stored. The folder itself is never changed.
        """
        run = Run(Path(folder))
        uri = resolve_tracking_uri(self.tracking_uri)
        check_reachable(uri)
        with quiet(), explained(uri, "the run could not be mirrored completely", run.folder):
            from .mirror import mirror

            return mirror(run, uri, experiment=self.experiment, register_as=self.register_as)

    def publish_search(self, folder: Path) -> str:
        """Mirror the search in ``folder`` as one run with its trials inside it, and return its address.

        Only the named trial can become a version of the registered model.

        Raises:
            InputError: as of :meth:`publish`.
        """
        found = Found(Path(folder))
        uri = resolve_tracking_uri(self.tracking_uri)
        check_reachable(uri)
        with quiet(), explained(uri, "the search could not be mirrored completely", found.folder):
            from .searches import mirror_search

            return mirror_search(found, uri, experiment=self.experiment, register_as=self.register_as)

    def publish_observed(self, folder: Path) -> str:
        """Mirror what was observed of a training in ``folder`` as one run, its curves by training step, and return its address.

        Raises:
            InputError: nothing was observed in the folder, or the store fails.
        """
        uri = resolve_tracking_uri(self.tracking_uri)
        check_reachable(uri)
        with quiet(), explained(uri, "what was observed could not be mirrored completely", Path(folder)):
            from .observed import mirror_observed

            return mirror_observed(Path(folder), uri, experiment=self.experiment)

    def publish_evaluation(self, folder: Path) -> str:
        """Mirror the evaluation in ``folder`` as one run beside the compressions of the same model, and return its address.

        Raises:
            InputError: there is no finished evaluation in the folder, or the store fails.
        """
        evaluated = Evaluated(Path(folder))
        uri = resolve_tracking_uri(self.tracking_uri)
        check_reachable(uri)
        with quiet(), explained(uri, "the evaluation could not be mirrored completely", evaluated.folder):
            from .evaluations import mirror_evaluation

            return mirror_evaluation(evaluated, uri, experiment=self.experiment)

    def fetch_model(self, address: str, into: Path) -> Path:
        """Bring the files of the model at ``address`` (``models:/…``, ``runs:/…``) into ``into`` and return their folder.

        Raises:
            InputError: there is no such model, or the store cannot be reached.
        """
        uri = resolve_tracking_uri(self.tracking_uri)
        check_reachable(uri)
        with quiet():
            from .fetching import fetch_model

            return fetch_model(uri, address, into)

    def fetch_predictions(self, address: str, into: Path) -> Path | None:
        """Bring what the model at ``address`` decided on its test rows; None when there is no such version yet.

        Raises:
            InputError: its run has no predictions, or the store cannot be reached.
        """
        uri = resolve_tracking_uri(self.tracking_uri)
        check_reachable(uri)
        with quiet(), explained(uri, "the champion could not be fetched"):
            from .fetching import fetch_predictions

            return fetch_predictions(uri, address, into)
