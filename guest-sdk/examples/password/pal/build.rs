fn main() {
    trustvisor_pal::build::Layout::new().stack(32 << 10).param(8 << 10).emit();
}
