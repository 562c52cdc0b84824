"""`ialcms listen`: a small local page where a video is dropped, boxes are drawn, and its separation is heard."""
