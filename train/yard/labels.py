"""The integer vocabularies of the ground truth. Order is part of the data format: append only."""

KINDS = ["none", "person", "car", "van", "bicycle", "dog", "ball", "box",
         "crate of apples", "crate of bananas", "crate of oranges", "gate"]
COLORS = ["none", "red", "blue", "green", "yellow", "white", "black", "orange", "purple", "brown"]
ACTIONS = ["none", "still", "moving", "stopped", "turned", "fallen", "carrying", "dropped", "picked_up"]
LIGHT, WEATHER = ["day", "dusk", "night"], ["clear", "rain", "snow", "fog"]

KIND = {k: i for i, k in enumerate(KINDS)}
COLOR = {k: i for i, k in enumerate(COLORS)}
ACTION = {k: i for i, k in enumerate(ACTIONS)}

# Colour x kind pairs that no training clip holds: only the `unseen` split does.
HELD_OUT = {("green", "van"), ("purple", "car"), ("yellow", "bicycle"), ("orange", "person"),
            ("blue", "van"), ("white", "person"), ("red", "bicycle"), ("black", "car")}

WIDTH, HEIGHT = 640, 360          # the camera
MODEL_W, MODEL_H = 256, 144       # what the encoder sees
GRID_W, GRID_H = 16, 9            # its patches
MODEL_FPS = 4
