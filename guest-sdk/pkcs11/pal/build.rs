fn main() {
    // Room for the largest token file and what comes with it; the heap has it encoded, decoded, and once more while it changes.
    trustvisor_pal::build::Layout::new().stack(96 << 10).param(160 << 10).heap(2 << 20).emit();
}
