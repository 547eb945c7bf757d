"""Drawn scenes as a training set: rendered when indexed, the same bytes for the same seed."""

from __future__ import annotations

from dataclasses import dataclass

from mgcda_core.data.rendered import render_scene
from mgcda_core.data.sample import Scene, Scenes


@dataclass(frozen=True)
class RenderedScenes(Scenes):
    """Scenes of these seeds, without anomalies; labels are train ids, nothing is void."""

    seeds: range = range(0)

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, index: int) -> Scene:
        """Draws one scene."""
        scene = render_scene(self.seeds[index], anomalies=0)
        return Scene(scene.image, scene.labels, f"rendered/{self.seeds[index]}", scene.labels)


def draw_scenes(seeds: range) -> RenderedScenes:
    """The scenes of these seeds."""
    return RenderedScenes("rendered", (), tuple((i,) for i in range(19)), seeds=seeds)
