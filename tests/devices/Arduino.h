// As much of an Arduino as the example needs, on a machine with a terminal: text, time, Serial, and a network.
#pragma once
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>

typedef unsigned char byte;

class String {
 public:
  String(const char *text = "") : text_(text) {}
  String(const std::string &text) : text_(text) {}
  String(unsigned long number) : text_(std::to_string(number)) {}
  String(long number) : text_(std::to_string(number)) {}
  const char *c_str() const { return text_.c_str(); }
  unsigned int length() const { return text_.size(); }
  char operator[](unsigned int place) const { return text_[place]; }
  int indexOf(const String &part) const {
    size_t place = text_.find(part.text_);
    return place == std::string::npos ? -1 : static_cast<int>(place);
  }
  String substring(unsigned int from, unsigned int to) const { return text_.substr(from, to - from); }
  String &operator+=(char letter) { text_ += letter; return *this; }
  bool operator==(const char *other) const { return text_ == other; }
  friend String operator+(const String &a, const String &b) { return a.text_ + b.text_; }

 private:
  std::string text_;
};

inline unsigned long millis() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000UL + now.tv_nsec / 1000000UL;
}
inline void delay(unsigned long ms) { usleep(ms * 1000); }
inline long random(long most) { return ::rand() % most; }

struct {
  void println(const String &line) {
    puts(line.c_str());
    fflush(stdout);
  }
} Serial;
