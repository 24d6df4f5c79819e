//! Nothing of a lab is left behind, however its run ends.
