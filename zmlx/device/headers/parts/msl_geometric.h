// Functions of vectors as points and directions (specification, chapter 6.9).
#pragma once

namespace metal {

template <typename A, typename V = zm_vector<A>>
ZM_INLINE typename V::value_type length_squared(const A& a) {
  return dot(a, a);
}
template <typename A, typename B, typename V = zm_joint<A, B>>
ZM_INLINE typename V::value_type distance(const A& a, const B& b) {
  return length(V(a) - V(b));
}
template <typename A, typename B, typename V = zm_joint<A, B>>
ZM_INLINE typename V::value_type distance_squared(const A& a, const B& b) {
  return length_squared(V(a) - V(b));
}
template <typename A, typename V = zm_vector<A>>
ZM_INLINE V normalize(const A& a) {
  return V(a) * typename V::value_type(rsqrt(dot(a, a)));
}
template <typename A, typename B, typename V = zm_joint<A, B>>
ZM_INLINE V cross(const A& a, const B& b) {
  static_assert(zm_like<V>::lanes == 3, "cross takes vectors of three");
  const V x(a), y(b);
  return V(x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0]);
}
template <typename A, typename B, typename V = zm_joint<A, B>>
ZM_INLINE V reflect(const A& incident, const B& normal) {
  typedef typename V::value_type T;
  return V(incident) - V(normal) * T(T(2.0f) * dot(normal, incident));
}
template <typename A, typename B, typename V = zm_joint<A, B>>
ZM_INLINE V refract(const A& incident, const B& normal, typename V::value_type eta) {
  typedef typename V::value_type T;
  const float along = float(dot(normal, incident)), e = float(eta);
  const float rest = 1.0f - e * e * (1.0f - along * along);
  return rest < 0.0f ? V(0)
                     : V(V(incident) * eta - V(normal) * T(e * along + sqrt(rest < 0.0f ? 0.0f : rest)));
}
template <typename A, typename B, typename C, typename V = zm_joint<A, B>>
ZM_INLINE V faceforward(const A& normal, const B& incident, const C& reference) {
  return float(dot(incident, reference)) < 0.0f ? V(normal) : V(-V(normal));
}

}  // namespace metal
