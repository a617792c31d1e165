"""The place of `table_of_names` in version 0.1.0; it is in `img2img.lab` now."""

from img2img.lab.tables.folders import table_of_names as table_of_names
