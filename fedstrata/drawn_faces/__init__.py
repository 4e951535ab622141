"""Faces drawn by a program: five labelled attributes, any number of people, nothing to fetch."""

from fedstrata.drawn_faces.camera import Camera
from fedstrata.drawn_faces.looks import LOOKS
from fedstrata.drawn_faces.pictures import ATTRIBUTES, CLASSES, MARGINALS, DrawnFaces, draw

__all__ = ["ATTRIBUTES", "CLASSES", "LOOKS", "MARGINALS", "Camera", "DrawnFaces", "draw"]
