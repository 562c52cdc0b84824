"""The Faster R-CNN that Co-Separation trained on 15 instruments of Open Images and shares as one file.

    settings.py   its classes, and what users of the published script can set
    blob.py       picture -> what the network sees
    boxes.py      anchors, decoding, proposals, final detections
    pooling.py    proposals -> 7 x 7 cells, in two published ways
    network.py    ResNet-101 and its heads
    weights.py    published checkpoints: recognise, check, load

Shapes: N pictures of one size, H x W pixels of a picture, h x w pixels of a blob, f x g cells of the base feature
(a sixteenth of the blob), A = 12 anchors, P proposals, K = 16 classes with the background.
"""
