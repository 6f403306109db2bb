//! To be written: controller.
