//! To be written: http.
