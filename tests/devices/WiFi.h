// The machine's own network is always there.
#pragma once
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include "Arduino.h"

struct {
  void begin(const char *, const char *) {}
} WiFi;

// The calls of Arduino's `Client` that PubSubClient makes, over a POSIX socket.
class WiFiClient {
 public:
  int connect(const char *host, int port) {
    stop();
    socket_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    inet_pton(AF_INET, host, &address.sin_addr);
    if (::connect(socket_, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0) stop();
    return socket_ >= 0;
  }
  bool connected() const { return socket_ >= 0; }
  bool available(int ms = 0) {
    pollfd one = {socket_, POLLIN, 0};
    return connected() && poll(&one, 1, ms) > 0;
  }
  int read() {
    byte one;
    if (::recv(socket_, &one, 1, 0) == 1) return one;
    stop();
    return -1;
  }
  void write(const std::string &bytes) {
    if (connected() && ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0) stop();
  }
  void stop() {
    if (socket_ >= 0) close(socket_);
    socket_ = -1;
  }

 private:
  int socket_ = -1;
};
