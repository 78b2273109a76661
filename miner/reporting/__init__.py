"""What people read: charts."""
