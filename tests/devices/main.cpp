// Runs a sketch as a board does, until it has its answer.
#include "sketch.ino"

int main() {
  srand(getpid());
  setup();
  while (!answered) loop();
  mqtt.loop();
}
